"""Fine-tunes models: the run, the step for several seeds, the choice of trained parameters, and the losses."""
