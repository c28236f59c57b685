"""The paper's comparisons, run again on phantom frames: one command each, with a report.

runs          one arm of a comparison, trained and measured once, kept as a file
sizes         how much of everything: a toy for tests, hours of two cores, the paper's
resolution    Table 1 and Fig. 2
views         Table 2 and Fig. 5
hypertrophy   Table 3 and Fig. 7
report        the files' numbers as Markdown and pictures
verb          `echobeam experiment`
"""
