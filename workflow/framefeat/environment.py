"""The environment variables that framefeat reads. Nothing else names them."""

# A run sets these for its jobs.

#: The process whose embedders its jobs share (``pid:start``); they end with it. Not set: no embedder is shared.
OWNER = "FRAMEFEAT_OWNER"
#: The command that a person typed to start it.
COMMAND = "FRAMEFEAT_COMMAND"
#: JSON: the model that the first job lets the embedder load while videos are decoded.
PREWARM = "FRAMEFEAT_PREWARM"
#: The rules whose jobs a person asked to run whatever is there; ``*``: all of them.
FORCED = "FRAMEFEAT_FORCED"

# A run sets this one too, and so may a person.

#: The devices (comma separated), where it is settled which of them can be used. Names that are no CUDA id stand for a
#: device in a test and compute on the CPU.
DEVICES = "FRAMEFEAT_DEVICES"

# A person may set these.

#: Seconds without progress (a model loaded, a batch done) after which an embedder is taken for hung and is ended.
EMBEDDER_TIMEOUT = "FRAMEFEAT_EMBEDDER_TIMEOUT"
#: Seconds without a request after which an embedder ends.
IDLE_S = "FRAMEFEAT_IDLE_S"
