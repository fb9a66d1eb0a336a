"""What can go wrong in the application, one class per documented exit code.

The message of every error has one form, `what, in which file or key: expected, got; what to do`, and the
command line prints it as one line after `error: `.
"""


class LabError(Exception):
    """An expected failure: reported in one line, without a traceback unless `--debug` asks for one."""

    exit_code = 1


class ConfigError(LabError):
    """A key, a value or a combination of them in the configuration is wrong."""

    exit_code = 2


class DataError(LabError):
    """A data set is missing, damaged, or not what its sidecar says."""

    exit_code = 3


class CheckpointError(LabError):
    """A checkpoint is missing, damaged, or of another run."""

    exit_code = 4


class NumericsError(LabError):
    """The loss is not finite."""

    exit_code = 5


class DistributedError(LabError):
    """A process of the group, or the connection to it, failed."""

    exit_code = 6
