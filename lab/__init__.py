"""What the experiments share. `lab.plumbing` holds what a reader of the science may skip."""
