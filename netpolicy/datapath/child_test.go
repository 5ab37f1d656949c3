package datapath_test

func loopChild() error   { return nil }
func leasesChild() error { return nil }
