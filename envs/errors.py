"""The one exception that means: the user can mend this."""


class UserError(Exception):
    """A problem the user can mend. Its text is one line that names what is wrong and the fix.

    The scripts print that line and exit with code 2; anything else is a defect of ours and keeps
    its traceback.
    """
