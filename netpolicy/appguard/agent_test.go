package appguard_test

func agentMain([]string) int { return 2 }
