"""The program `sc-runtime`: a file for each command, joined by `app`.

The commands parse and print. `planning` turns inputs and -o into jobs, `jobs` does them, `loading` opens the codec.
`describe`, `examine` and `picture` are plain functions that return values. `console` and `tables` print. `options`
declares the options that several commands share. `program` runs a command and sets the exit code.

Heavy modules are imported inside the commands, so that `--help` starts at once.
"""
