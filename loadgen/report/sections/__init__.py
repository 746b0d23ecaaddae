"""The sections of a report, one file each; `loadgen.report.document` lists them in their order."""
