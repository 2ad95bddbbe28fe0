# The last lines of a run.
import sys

from snakemake.logging import logger

from framefeat import signals
from framefeat.run.progress import command_again


def remarks_of_exports():
    """What a person must know of the files that this run exported."""
    from framefeat.summaries import export_h5

    for result in map(RESULTS.backbone, BACKBONES):
        path = result.h5(SETTINGS.dataset)
        if path.is_file() and path.stat().st_mtime >= int(RUN_BEGAN):
            for remark in export_h5.remarks(path):
                yield f"{WORKS_AT / path}: {remark}"


def print_outcome():
    """What a person wants to know at the end of a run, the rows that are bad first of all."""
    from framefeat.run import outcome

    for line in outcome.lines(RESULTS.root, list(BACKBONES), WORKS_AT):
        logger.info(line)
    for line in remarks_of_exports():
        logger.info(line)
    for line in outcome.next_steps(RESULTS, SETTINGS.dataset, list(BACKBONES), WORKS_AT):
        logger.info(line)


def print_failures():
    """What failed, why, and how to go on."""
    from framefeat.run import outcome

    if signals.interrupted():
        logger.error(how_far("interrupted"))
        return
    logs = [JOBS.logs, JOBS_OF_ALL.log("fetch_weights").parent]
    lines = list(outcome.failures(logs, RUN_BEGAN, command_again(sys.argv), WORKS_AT))
    # A job that was killed, as by a batch system that ends the whole run, says nothing.
    for line in lines or [how_far("stopped")]:
        logger.error(line)


def how_far(ended):
    from framefeat.run import plan

    done, videos = plan.videos_done(SETTINGS, RESULTS)
    reached = f"{done} of {videos} videos done" if videos else "before a video was decoded"
    return f"{ended}, {reached}; the same command goes on:\n  {command_again(sys.argv)}"


if workflow.is_main_process and not IS_MODULE:
    signals.say_at_the_end(lambda: how_far("interrupted"))


onsuccess:
    if workflow.is_main_process:
        print_outcome()


onerror:
    if workflow.is_main_process:
        print_failures()
