"""The labeling tool: what a labeler does to labels (`session`), the window (`editor`), and `agreement`."""
