package render

import (
	"io"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/phonehost/phonehost/agent/hub"
)

// Agents writes the agents that are connected to a hub, a row each.
func Agents(w io.Writer, agents []hub.Agent, now time.Time) error {
	t := NewTable("NAME", "SESSIONS", "FROM", "SINCE")
	for _, agent := range agents {
		var kinds []string
		from, since := "", ""
		for _, s := range agent.Sessions {
			kinds = append(kinds, string(s.Kind))
			if from == "" {
				from, since = s.Remote, Ago(timestamppb.New(s.Since), now)
			}
		}
		t.Row(agent.Name, strings.Join(kinds, ","), from, since)
	}
	return t.Write(w)
}

// Certificate is where a certificate and its key lie. It is printed as JSON by these names.
type Certificate struct {
	Cert string `json:"cert"`
	Key  string `json:"key"`
}

// Certified writes where a certificate and its key lie.
func Certified(w io.Writer, c Certificate) error {
	var f fields
	f.add("certificate", c.Cert)
	f.add("key", c.Key)
	return f.write(w)
}
