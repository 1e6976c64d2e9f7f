"""Engine to tokens: slots, scheduler, sampling, backends."""
