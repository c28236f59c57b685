"""The paper's comparisons, run again on phantom frames: one command each, with a report.

results           what one arm of a comparison came to, kept as a file
code              the code, the commit and the machine that a result comes from
runs              an arm's training timed, and its network measured
sizes             how much of everything: a toy for tests, minutes or hours of two cores, the paper's
resolution        Table 1 and Fig. 2
views             Table 2 and Fig. 5
hypertrophy       Table 3 and Fig. 7
severity          what trained networks come to as scans get harder
report            the files' numbers as Markdown and pictures
severity_report   the same of curves
verb              `echobeam experiment`
"""
