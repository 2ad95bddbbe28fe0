"""The report of a finished run: one self-contained HTML page (:func:`framefeat.report.build.build`)."""
