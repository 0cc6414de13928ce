"""Errors OneSlice raises on purpose. Each message says what was expected, what came, what to do.

OneSliceError
├── SettingsError        a plan, scenario or site file has an unknown key or an impossible value
├── BadScanError         one file cannot be used; it is quarantined and the rest goes on
├── LabelDictionaryError the labels that were found are not those that the plan expects
├── StoreError           a hospital's store cannot be read or written
├── EgressError          an outgoing message holds something that may not leave the hospital
├── BadReplyError        a hospital's reply fails the coordinator's checks; it is dropped by name
├── QuorumError          too few hospitals answered
└── CheckpointError      a run folder cannot be resumed or evaluated
"""


class OneSliceError(Exception):
    """Base of all errors raised on purpose; its text is meant for the person at the keyboard."""


class SettingsError(OneSliceError):
    """A plan, scenario or site file has an unknown key or an impossible value."""


class BadScanError(OneSliceError):
    """One file cannot be used; it is quarantined with this text and the rest goes on."""


class LabelDictionaryError(OneSliceError):
    """The labels that were found are not those that the dictionary or the plan expects."""


class StoreError(OneSliceError):
    """A hospital's store cannot be read or written."""


class EgressError(OneSliceError):
    """An outgoing message holds something that may not leave the hospital."""


class BadReplyError(OneSliceError):
    """A hospital's reply fails the coordinator's checks; it is dropped and the hospital named."""


class QuorumError(OneSliceError):
    """Too few hospitals answered for the round to count."""


class CheckpointError(OneSliceError):
    """A run folder cannot be resumed or evaluated."""
