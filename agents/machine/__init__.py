"""What depends on the machine: device, threads, signals, and the ranks of a distributed run."""
