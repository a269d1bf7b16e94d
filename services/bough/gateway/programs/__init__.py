"""Programs of model calls: states that grow, branch and are cut, kept by the scheduler and worked on from here."""
