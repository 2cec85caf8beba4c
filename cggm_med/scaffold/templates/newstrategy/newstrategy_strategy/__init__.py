"""The balancing strategy newstrategy for cggm-med."""
