package operate_test

const helperURL = "HOLDFAST_OPERATE_URL"

func helper() {}
