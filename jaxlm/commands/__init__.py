"""Code that the commands share: flags from settings, one-line errors, plug-ins, the process."""
