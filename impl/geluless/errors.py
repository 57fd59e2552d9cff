"""Every error a user can cause, by what they have to do about it. Each message says what to do."""


class GelulessError(Exception):
    """Base of all errors that are about the user's input or setup, not about a defect of the program."""


class ModelError(GelulessError):
    """The network is not one this package can handle, or not in the state the call needs."""


class CheckpointError(GelulessError):
    """The weights are missing, unreadable, or those of another network."""


class DataError(GelulessError):
    """The images are missing, unreadable, of the wrong shape, or hold NaN or infinite pixels."""


class CalibrationError(GelulessError):
    """Calibration cannot give usable ranges."""


class ArtifactError(GelulessError):
    """The artifact is truncated, altered, forged, or contradicts itself."""


class VariantError(GelulessError):
    """The variant does not exist or does not fit the artifact's activation."""


class ExportError(GelulessError):
    """The artifact cannot be written in the other format, or that format's own tools refuse it."""


class MissingResource(GelulessError):
    """Something this machine lacks (a package, a GPU, a data set); exit code 3."""


class SettingError(GelulessError):
    """An environment variable holds what it cannot mean."""


class OutputError(GelulessError):
    """A file cannot be written: no space, no permission, no such place."""


class BusyError(GelulessError):
    """Another run is at work in the same folder."""
