"""What will work, said before anything starts: this machine, a configuration's files, memory and time."""
