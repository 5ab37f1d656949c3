package wire

const victimEnv = "PHONEHOST_TEST_WIRE_VICTIM"

func victim() int { return 1 }
