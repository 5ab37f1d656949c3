package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/phonehost/phonehost/agent/cli/render"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type doctorCmd struct{}

// Help is the detailed help.
func (c *doctorCmd) Help() string {
	return "Exits 1 when a finding is an ERROR: something that phones need does not work. Warnings alone exit 0."
}

func (c *doctorCmd) Run(ctx context.Context, a *app) error {
	host, err := a.host(ctx)
	if err != nil {
		return err
	}
	answer, err := host.RunDoctor(ctx, &phonehostv1.RunDoctorRequest{})
	if err != nil {
		return err
	}
	findings := answer.GetFindings()
	if err := a.print(answer, func(w io.Writer) error { return render.Findings(w, findings) }); err != nil {
		return err
	}
	bad := 0
	for _, f := range findings {
		if f.GetSeverity() == phonehostv1.Severity_SEVERITY_ERROR {
			bad++
		}
	}
	if bad > 0 {
		return exitError{code: exitFailed, text: fmt.Sprintf("%d of %d checks found errors", bad, len(findings))}
	}
	return nil
}
