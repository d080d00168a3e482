"""What is measured of edits: torchmetrics classes, and the suite that asks for all of them in few passes."""
