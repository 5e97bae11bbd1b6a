"""Python API: a function for each command, with the options of the command.

Importing these modules is cheap and requires no extras: each function imports what it needs when it is called. `import
cvae` gives access to all public names.
"""
