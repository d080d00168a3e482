"""Six general tasks that tell what editing has done to the rest of the model (SST-2, MRPC, MMLU, RTE, CoLA, NLI)."""
