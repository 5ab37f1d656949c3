package datapath_test

import (
	"os"
	"testing"

	"github.com/phonehost/phonehost/scripts/testenv/netlab"
)

func TestMain(m *testing.M) { os.Exit(netlab.Run(m)) }
