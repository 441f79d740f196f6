"""What every measurement needs: the machine's record, files of results, tables, charts, child processes."""
