"""What the experiments share, a room each.

training: what decides the numbers of every run; changes: what one experiment does to images, selects or measures;
analysis: reads records, never trains; study: plans, runs, records, processes, the command line; guard: what a reader of
the science may skip.
"""
