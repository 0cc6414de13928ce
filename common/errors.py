"""Errors OneSlice raises on purpose. Each message says what was expected, what came, what to do.

OneSliceError
├── SettingsError        a plan, scenario or site file has an unknown key or an impossible value
├── VersionError         the coordinator and the hospital run different versions (a SettingsError)
├── BadScanError         one file cannot be used; it is quarantined and the rest goes on
├── LabelDictionaryError the labels that were found are not those that the plan expects
├── StoreError           a hospital's store cannot be read or written
│   └── DiskFullError    there is no room to write it
├── EgressError          an outgoing message holds something that may not leave the hospital
├── BadReplyError        a hospital's reply fails the coordinator's checks; it is dropped by name
├── QuorumError          too few hospitals answered
├── ReleaseError         the release gate keeps a round back, or a release cannot be used
├── ServiceError         a supervised program, or what it needs, is not as it must be
└── CheckpointError      a run folder cannot be resumed or evaluated
"""


class OneSliceError(Exception):
    """Base of all errors raised on purpose; its text is meant for the person at the keyboard."""


class SettingsError(OneSliceError):
    """A plan, scenario or site file has an unknown key or an impossible value."""


class VersionError(SettingsError):
    """The coordinator and the hospital run different versions; the text names nothing but these.

    Attributes:
        protocol: the one that the coordinator speaks, so that it can read the answer.
    """

    def __init__(self, text: str, protocol: int) -> None:
        """Keeps both."""
        super().__init__(text)
        self.protocol = protocol


class BadScanError(OneSliceError):
    """One file cannot be used; it is quarantined with this text and the rest goes on."""


class LabelDictionaryError(OneSliceError):
    """The labels that were found are not those that the dictionary or the plan expects."""


class StoreError(OneSliceError):
    """A hospital's store cannot be read or written."""


class DiskFullError(StoreError):
    """The disk under a hospital's store is full."""


class EgressError(OneSliceError):
    """An outgoing message holds something that may not leave the hospital."""


class BadReplyError(OneSliceError):
    """A hospital's reply fails the coordinator's checks; it is dropped and the hospital named."""


class QuorumError(OneSliceError):
    """Too few hospitals answered for the round to count; `missing` names those that did not."""

    def __init__(self, text: str, missing: tuple[str, ...] = ()) -> None:
        """`missing`: the hospitals whose answer would have counted, as far as they are known."""
        super().__init__(text)
        self.missing = missing


class ReleaseError(OneSliceError):
    """The plan's release gate keeps a round's models back, or a release cannot be used."""


class ServiceError(OneSliceError):
    """A supervised program, or what it needs (a port, a certificate), is not as it must be."""


class CheckpointError(OneSliceError):
    """A run folder cannot be resumed or evaluated."""
