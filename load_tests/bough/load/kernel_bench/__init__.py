"""Speed of single kernels beside what the hardware could give: one table a command."""
