"""The project's own errors: each says what was found, where, and what to do, and carries an exit status."""


class SmpRayError(Exception):
    """An expected failure of a run; the command prints its one line and exits with `exit_status`."""

    exit_status = 1


class ConfigError(SmpRayError):
    """The configuration or the command line is wrong: nothing was started."""

    exit_status = 2


class DataError(SmpRayError):
    """The raw dataset cannot be read at all (a missing file, unreadable JSON): the file and position are named."""


class ModelError(SmpRayError):
    """A model cannot be loaded or does not fit its family (a missing folder, no tokenizer, no network)."""


class FamilyError(SmpRayError):
    """A feature family is not installed, clashes with another, or returns what it did not declare."""


class WorkspaceError(SmpRayError):
    """The workspace cannot be reached, or an artefact in it contradicts its manifest."""


class FeaturePassError(SmpRayError):
    """The Ray Data pass ended before every post had its row; what was finished is kept."""


class UnreachableError(FeaturePassError):
    """Too many pictures could not be had for now: the network, a store or its credentials, not the data."""


class LostNodesError(FeaturePassError):
    """So many nodes are gone that the pass has no room any more; another plan may fit what is left."""


def one_line(error: BaseException, limit: int = 500) -> str:
    """What an error says, on one line of at most so many characters; its type where it says nothing."""
    return " ".join(str(error).split())[:limit] or type(error).__name__
