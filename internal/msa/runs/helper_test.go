package runs

const helperURL = "HOLDFAST_RUNS_URL"

func helper() {}
