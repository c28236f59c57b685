"""The paper's comparisons, run again on phantom frames: one command each, with a report.

results           what one arm of a comparison came to, kept as a file
code              the code, the commit and the machine that a result comes from
runs              an arm's training timed, and its network measured
sizes             how much of everything: a toy for tests, minutes or hours of two cores, the paper's
resolution        Table 1 and Fig. 2
views             Table 2 and Fig. 5
hypertrophy       Table 3 and Fig. 7
methods           the GAN and its challengers, trained alike
few_labels        one bench for them: labels of one site, an archive of another, an exam of each
labels            Table 4 and Fig. 8
lvh_gan           Fig. 9 and 10
sites             what a site gains from its own unlabeled frames
severity          what trained networks come to as scans get harder
report            the files' numbers as Markdown and pictures
few_labels_page   what the pages of experiments with few labels share
few_labels_report these pages
severity_report   the same of curves
science           the page of all that was measured
verb              `echobeam experiment`
"""
