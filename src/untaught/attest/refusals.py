"""What verifying can end with, other than well. Each carries the exit code that the command line ends with.

    3   BadSignature   nobody who was asked for signed this, or it was altered since; `Tampered`: it is not even JSON
                       that an honest writer writes
    4   BytesDiffer    the signature is good, and the files at hand are not the ones that were signed
    5   ClaimFails     the files are the ones that were signed, and what is claimed of them is less than is demanded

They are raised at once and never caught on the way, so the first is what the user is told.
"""

from __future__ import annotations

from typing import ClassVar

from ..core import ExitCode, UserError


class Refused(UserError):
    """Something that was asked to be verified is refused."""

    code: ClassVar[ExitCode] = ExitCode.SIGNATURE_FAILED


class BadSignature(Refused):
    """Not signed by the key that was asked for, or altered since."""


class Tampered(BadSignature):
    """JSON that two readers would read differently, or that is made to exhaust a reader."""


class BytesDiffer(Refused):
    """Files that are not the ones that were signed."""

    code: ClassVar[ExitCode] = ExitCode.BYTES_DIFFER


class ClaimFails(Refused):
    """A claim that does not hold against what was demanded."""

    code: ClassVar[ExitCode] = ExitCode.CLAIM_FAILED
