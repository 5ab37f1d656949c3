package cli

import (
	"net"
	"time"

	"github.com/phonehost/phonehost/agent/access"
	"github.com/phonehost/phonehost/agent/cli/render"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/pki"
)

type pkiCmd struct {
	Init  pkiInitCmd  `cmd:"" help:"Make a test CA."`
	Issue pkiIssueCmd `cmd:"" help:"Make a certificate of an agent or a client."`
}

// Help is the detailed help.
func (c *pkiCmd) Help() string {
	return "A CA for trying phonehost out and for small shelves of phones. A fleet issues from its own authority: " +
		"docs/doors.md says what a certificate must hold."
}

type pkiInitCmd struct {
	Dir      string        `default:"pki" placeholder:"DIR" help:"Where the CA lies. Default: ${default}."`
	Name     string        `placeholder:"NAME" help:"Common name of the CA. Default: phonehost test CA."`
	Lifetime time.Duration `placeholder:"DURATION" help:"How long it is good for, such as 8760h. Default: ten years."`
	Force    bool          `help:"Replace a CA that is there; what it has issued is worth nothing then."`
}

func (c *pkiInitCmd) Run(a *app) error {
	files, err := pki.Init(c.Dir, pki.CAOptions{Name: c.Name, Lifetime: c.Lifetime, Force: c.Force})
	if err != nil {
		return err
	}
	return a.printFiles(files)
}

type pkiIssueCmd struct {
	Identity string        `arg:"" help:"agent/NAME or client/NAME; a hub is a client."`
	Dir      string        `default:"pki" placeholder:"DIR" help:"Where the CA lies, and the certificate will. Default: ${default}."`
	DNS      []string      `name:"dns" placeholder:"NAME" help:"Further DNS name; may be repeated. phonehost itself does not look at it."`
	IP       []net.IP      `name:"ip" placeholder:"ADDR" help:"Further IP address; may be repeated."`
	Lifetime time.Duration `placeholder:"DURATION" help:"How long it is good for. Default: one year."`
	Force    bool          `help:"Replace a certificate that is there."`
}

func (c *pkiIssueCmd) Run(a *app) error {
	id, err := access.ParseIdentity(c.Identity)
	if err != nil {
		return usagef("%s", fault.Words(err))
	}
	files, err := pki.Issue(c.Dir, id, pki.IssueOptions{DNS: c.DNS, IPs: c.IP, Lifetime: c.Lifetime, Force: c.Force})
	if err != nil {
		return err
	}
	return a.printFiles(files)
}

// printFiles prints where a certificate and its key lie.
func (a *app) printFiles(files pki.Files) error {
	out := render.Certificate{Cert: files.Cert, Key: files.Key}
	if a.json() {
		return render.Value(a.stdout, out)
	}
	return render.Certified(a.stdout, out)
}
