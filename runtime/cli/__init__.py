"""What the command line is made of: inputs to jobs, reports, descriptions, and how a program ends."""
