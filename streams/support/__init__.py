"""What several folders of `streams` use and none owns: histograms and tracing.

Imports nothing of the project.
"""
