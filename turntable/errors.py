"""Errors meant for a user, and the exit codes of every command."""

from __future__ import annotations

EXIT_OK = 0
EXIT_ITEMS_FAILED = 1
"""The command ran; some items failed or some content is damaged. Each is named in the output."""
EXIT_USAGE = 2
"""What was asked cannot be done; nothing was started. The message says what to change."""
EXIT_DISK_FULL = 3
"""The run stopped because nothing more can be written; what was finished is kept and a re-run continues."""
EXIT_INTERRUPTED = 130
"""Ctrl-C; what was finished is kept and a re-run continues."""


class UserError(ValueError):
    """Something the user can mend. The message says what was asked, what was found, where, and the next step."""


class DiskFullError(OSError):
    """No space (or quota, or file-size limit) left where a file was to be written."""
