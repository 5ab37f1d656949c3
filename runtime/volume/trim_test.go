package volume_test

import (
	"testing"

	"github.com/phonehost/phonehost/runtime/volume"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// TestTrimGivesBackWhatIsFree frees blocks in a mount that does not discard by itself.
func TestTrimGivesBackWhatIsFree(t *testing.T) {
	testenv.Root(t)
	for _, live := range []bool{false, true} {
		path := create(t)
		const fill = 20 << 20
		write(t, path, "full", string(make([]byte, fill)))
		m := open(t, path, false)
		if err := m.Root().Remove("full"); err != nil {
			t.Fatal(err)
		}
		closed(t, m)
		if u := stat(t, path); u.AllocatedBytes < fill {
			t.Fatalf("the volume takes %d bytes before it is trimmed", u.AllocatedBytes)
		}
		if live {
			mounted(t, path)
		}
		discarded, err := volume.Trim(t.Context(), path)
		if err != nil || discarded < fill {
			t.Errorf("Trim = %d, %v", discarded, err)
		}
		if u := stat(t, path); u.AllocatedBytes > 2<<20 || u.Live != live {
			t.Errorf("after the trim: %+v", u)
		}
	}
}
