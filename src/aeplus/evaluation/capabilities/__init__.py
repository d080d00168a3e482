"""Six general tasks that measure what editing does to the rest of the model (SST-2, MRPC, MMLU, RTE, CoLA, NLI)."""
