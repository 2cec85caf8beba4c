"""Settings under which the rule of a strategy is at work from the first step."""

# Built-in strategies whose rule depends on the step are tried where it is at work.
AT_WORK = {
    "cggm": {"warmup_steps": 0},
    "cggm_paper": {"guidance_weight": 0.0},
    "cggm_released": {"guidance_weight": 0.0},
    "opm": {"warmup": 0.0, "probability": 1.0},
    "dgs": {"every": 1},
    "pmr": {"early": 1.0},
    "gblending": {"super_epoch": 1},
}
