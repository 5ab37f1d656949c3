package render

import (
	"fmt"
	"io"
	"strings"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// CommandResults writes what commands printed: alone as it is, of several phones each line behind the phone's id. Bytes that a terminal
// would act on are replaced.
func CommandResults(w io.Writer, results []*phonehostv1.CommandResult) error {
	prefix := func(id string) string { return id + ": " }
	if len(results) == 1 {
		prefix = func(string) string { return "" }
	}
	for _, r := range results {
		if err := commandOutput(w, prefix(r.GetPhoneId()), r.GetOutput()); err != nil {
			return err
		}
	}
	return nil
}

func commandOutput(w io.Writer, prefix string, out *phonehostv1.CommandOutput) error {
	for _, stream := range []struct {
		data    []byte
		dropped uint64
	}{{out.GetStdout(), out.GetStdoutDroppedBytes()}, {out.GetStderr(), out.GetStderrDroppedBytes()}} {
		text := strings.TrimSuffix(string(stream.data), "\n")
		if text != "" {
			for line := range strings.SplitSeq(text, "\n") {
				if _, err := fmt.Fprintf(w, "%s%s\n", prefix, Printable(line)); err != nil {
					return err
				}
			}
		}
		if stream.dropped > 0 {
			if _, err := fmt.Fprintf(w, "%s[%s more]\n", prefix, Bytes(stream.dropped)); err != nil {
				return err
			}
		}
	}
	return nil
}
