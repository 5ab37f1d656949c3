package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/phonehost/phonehost/agent/cli/render"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type appListCmd struct {
	Put      appListPutCmd      `cmd:"" help:"Make a list of apps, or give one other content; its phones have it at once."`
	Add      appListAddCmd      `cmd:"" help:"Add packages to a list."`
	Remove   appListRemoveCmd   `cmd:"" help:"Remove packages from a list."`
	Enable   appListEnableCmd   `cmd:"" help:"Put lists in force that were disabled."`
	Disable  appListDisableCmd  `cmd:"" help:"Take lists out of force; their phones stay on them."`
	Rm       appListRmCmd       `cmd:"" help:"Delete lists."`
	Ls       appListLsCmd       `cmd:"" help:"List the lists, and what the host's kernel refuses."`
	Show     appListShowCmd     `cmd:"" help:"Show a list, its packages and its phones."`
	Export   appListExportCmd   `cmd:"" help:"Print the packages of a list, one a line, as put --file reads them."`
	Assign   appListAssignCmd   `cmd:"" help:"Put phones on a list, at once."`
	Unassign appListUnassignCmd `cmd:"" help:"Take phones off the lists that they are on, at once."`
	Denials  appListDenialsCmd  `cmd:"" help:"Print what was refused to apps of phones, or what is from now on with -f."`
	Check    appListCheckCmd    `cmd:"" help:"Tell what would become of an app of a phone, and why."`
}

// appLists returns the client of AppListService.
func (a *app) appLists(ctx context.Context) (phonehostv1.AppListServiceClient, error) {
	c, err := a.connect(ctx)
	if err != nil {
		return nil, err
	}
	return phonehostv1.NewAppListServiceClient(c.Control()), nil
}

// remarks says what to know though nothing is wrong.
func (a *app) remarks(texts []string) {
	for _, text := range texts {
		a.sayf("note: %s", render.Printable(text))
	}
}

// entries are the packages of a command line: as arguments, in a file, or both.
type entries struct {
	Packages []string `arg:"" optional:"" name:"package" help:"Packages such as com.example.game, and patterns such as com.example.*, in quotes."`
	File     string   `placeholder:"FILE" help:"A file with packages, one a line; # begins a comment, - reads the standard input."`
}

// read returns them.
func (e entries) read(a *app) ([]string, error) {
	if e.File == "" {
		return e.Packages, nil
	}
	file, _, err := openInput(a, e.File)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxListFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxListFile {
		return nil, usagef("--file %s: more than %d bytes are no list of packages", e.File, maxListFile)
	}
	some, err := packageLines(string(text))
	if err != nil {
		return nil, usagef("--file %s: %v", e.File, err)
	}
	return append(e.Packages[:len(e.Packages):len(e.Packages)], some...), nil
}

// packageLines reads packages, one a line (docs/app-lists.md). What is no package, the agent says.
func packageLines(text string) ([]string, error) {
	var some []string
	n := 0
	for line := range strings.Lines(strings.TrimPrefix(text, "\uFEFF")) {
		n++
		line, _, _ = strings.Cut(line, "#")
		switch words := strings.Fields(line); len(words) {
		case 0:
		case 1:
			some = append(some, words[0])
		default:
			return nil, fmt.Errorf("line %d: %q: want one package a line", n, render.Printable(strings.TrimSpace(line)))
		}
	}
	return some, nil
}

// maxListFile bounds a file of packages, which has comments too.
const maxListFile = 1 << 20

type appListPutCmd struct {
	Name         string `arg:"" name:"applist" help:"Its name: 1..64 printable characters."`
	Deny         bool   `xor:"mode" required:"" help:"Deny these packages, and allow all others."`
	Allow        bool   `xor:"mode" required:"" help:"Allow these packages and those of the image, and deny all others."`
	Description  string `placeholder:"TEXT" help:"What it is for, up to 255 characters."`
	Strict       bool   `help:"Only where the kernel refuses installations, launches and network: elsewhere its phones do not start."`
	DenyIsolated bool   `help:"Deny isolated processes too, which tell nothing of their app: then no app shows web pages (WebView)."`
	Disabled     bool   `help:"Not in force until it is enabled. Default: a new list is in force, one that is there stays as it is."`
	Force        bool   `help:"Accept that apps are denied which share an app id with one of these."`
	entries
}

// Help is the detailed help.
func (c *appListPutCmd) Help() string {
	return "The list has what is given here and nothing else: `applist add` and `applist remove` change one. It is in force on its phones when the command returns, " +
		"for apps that run too.\n\nAn allow list without packages allows no app that a user installs."
}

func (c *appListPutCmd) Run(ctx context.Context, a *app) error {
	packages, err := c.read(a)
	if err != nil {
		return err
	}
	lists, err := a.appLists(ctx)
	if err != nil {
		return err
	}
	q := &phonehostv1.PutAppListRequest{
		Name: c.Name, Mode: phonehostv1.AppListMode_APP_LIST_MODE_DENY, Description: c.Description, Packages: packages, Strict: c.Strict, Force: c.Force,
		DenyIsolated: c.DenyIsolated,
	}
	if c.Allow {
		q.Mode = phonehostv1.AppListMode_APP_LIST_MODE_ALLOW
	}
	if c.Disabled {
		q.Enabled = new(false)
	}
	answer, err := lists.PutAppList(ctx, q)
	if err != nil {
		return about(c.Name, err)
	}
	return a.appListChanged(answer, answer.GetAppList(), answer.GetRemarks())
}

// appListChanged says what a list is by now.
func (a *app) appListChanged(answer proto.Message, l *phonehostv1.AppList, remarks []string) error {
	if err := a.print(answer, func(io.Writer) error { a.sayf("%s", render.AppListLine(l)); return nil }); err != nil {
		return err
	}
	if !a.json() {
		a.remarks(remarks)
	}
	return nil
}

// changeAppList changes a list.
func (a *app) changeAppList(ctx context.Context, q *phonehostv1.ChangeAppListRequest) error {
	lists, err := a.appLists(ctx)
	if err != nil {
		return err
	}
	answer, err := lists.ChangeAppList(ctx, q)
	if err != nil {
		return about(q.GetName(), err)
	}
	return a.appListChanged(answer, answer.GetAppList(), answer.GetRemarks())
}

type appListAddCmd struct {
	Name  string `arg:"" name:"applist" help:"The list."`
	Force bool   `help:"Accept that apps are denied which share an app id with one that is."`
	entries
}

func (c *appListAddCmd) Run(ctx context.Context, a *app) error {
	packages, err := c.read(a)
	if err != nil {
		return err
	}
	if len(packages) == 0 {
		return usagef("add needs packages, or --file FILE with some")
	}
	return a.changeAppList(ctx, &phonehostv1.ChangeAppListRequest{Name: c.Name, AddPackages: packages, Force: c.Force})
}

type appListRemoveCmd struct {
	Name  string `arg:"" name:"applist" help:"The list."`
	Force bool   `help:"Accept that apps are denied which share an app id with one that is."`
	entries
}

func (c *appListRemoveCmd) Run(ctx context.Context, a *app) error {
	packages, err := c.read(a)
	if err != nil {
		return err
	}
	if len(packages) == 0 {
		return usagef("remove needs packages, or --file FILE with some; `applist rm` deletes lists")
	}
	return a.changeAppList(ctx, &phonehostv1.ChangeAppListRequest{Name: c.Name, RemovePackages: packages, Force: c.Force})
}

type appListEnableCmd struct {
	Names []string `arg:"" name:"applist" help:"The lists."`
	Force bool     `help:"Accept that apps are denied which share an app id with one that is."`
}

func (c *appListEnableCmd) Run(ctx context.Context, a *app) error {
	return a.enableAppLists(ctx, c.Names, true, c.Force)
}

type appListDisableCmd struct {
	Names []string `arg:"" name:"applist" help:"The lists."`
}

func (c *appListDisableCmd) Run(ctx context.Context, a *app) error {
	return a.enableAppLists(ctx, c.Names, false, false)
}

// enableAppLists puts lists in force or out of it, all that can be.
func (a *app) enableAppLists(ctx context.Context, names []string, enabled, force bool) error {
	var errs []error
	for _, name := range names {
		err := a.changeAppList(ctx, &phonehostv1.ChangeAppListRequest{Name: name, Enabled: &enabled, Force: force})
		if err != nil && len(names) > 1 && ctx.Err() == nil {
			text, remedy := a.explain(ctx, err)
			a.sayf("%s: %s", name, text)
			if remedy != "" {
				a.sayf("  %s: %s", name, remedy)
			}
			err = exitError{code: exitFailed}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

type appListRmCmd struct {
	Names []string `arg:"" name:"applist" help:"The lists, up to 100."`
	Force bool     `help:"Take phones off the lists that they are on."`
}

func (c *appListRmCmd) Run(ctx context.Context, a *app) error {
	lists, err := a.appLists(ctx)
	if err != nil {
		return err
	}
	answer, err := lists.DeleteAppLists(ctx, &phonehostv1.DeleteAppListsRequest{Names: c.Names, Force: c.Force})
	if err != nil {
		return about(first(c.Names), err)
	}
	if err := a.print(answer, func(io.Writer) error { return nil }); err != nil {
		return err
	}
	bad := false
	for _, r := range answer.GetResults() {
		f := r.GetFailure()
		if f == nil {
			if !a.json() {
				a.sayf("%s: deleted", r.GetName())
			}
			continue
		}
		bad = true
		a.sayf("%s: %s", r.GetName(), render.Printable(f.GetMessage()))
		if remedy := remedyFor(codes.Code(f.GetCode()), f.GetReason(), r.GetName(), nil); remedy != "" {
			a.sayf("  %s: %s", r.GetName(), remedy)
		}
	}
	if bad {
		return exitError{code: exitFailed}
	}
	return nil
}

type appListLsCmd struct{}

func (c *appListLsCmd) Run(ctx context.Context, a *app) error {
	lists, err := a.appLists(ctx)
	if err != nil {
		return err
	}
	answer, err := lists.ListAppLists(ctx, &phonehostv1.ListAppListsRequest{})
	if err != nil {
		return err
	}
	err = a.print(answer, func(w io.Writer) error { return render.AppLists(w, answer.GetAppLists(), a.now()) })
	if err == nil && !a.json() {
		a.sayf("%s", render.Enforcement(answer.GetEnforcement()))
	}
	return err
}

type appListShowCmd struct {
	Name string `arg:"" name:"applist" help:"The list."`
}

func (c *appListShowCmd) Run(ctx context.Context, a *app) error {
	answer, err := a.getAppList(ctx, c.Name)
	if err != nil {
		return err
	}
	return a.print(answer, func(w io.Writer) error { return render.AppList(w, answer, a.now()) })
}

// getAppList returns a list.
func (a *app) getAppList(ctx context.Context, name string) (*phonehostv1.GetAppListResponse, error) {
	lists, err := a.appLists(ctx)
	if err != nil {
		return nil, err
	}
	answer, err := lists.GetAppList(ctx, &phonehostv1.GetAppListRequest{Name: name})
	return answer, about(name, err)
}

type appListExportCmd struct {
	Name string `arg:"" name:"applist" help:"The list."`
}

// Help is the detailed help.
func (c *appListExportCmd) Help() string {
	return "Whether it denies or allows is in a comment: `phonectl applist put NAME --deny --file FILE` makes the list anew."
}

func (c *appListExportCmd) Run(ctx context.Context, a *app) error {
	answer, err := a.getAppList(ctx, c.Name)
	if err != nil {
		return err
	}
	return a.print(answer, func(w io.Writer) error {
		l := answer.GetAppList()
		if _, err := fmt.Fprintf(w, "# %s (%s)\n", render.Printable(l.GetName()), render.AppListMode(l.GetMode())); err != nil {
			return err
		}
		for _, entry := range l.GetPackages() {
			if _, err := fmt.Fprintln(w, entry); err != nil {
				return err
			}
		}
		return nil
	})
}

type appListAssignCmd struct {
	Name  string   `arg:"" name:"applist" help:"The list."`
	IDs   []string `arg:"" name:"id" help:"The phones, up to 100."`
	Move  bool     `help:"Take those off their list that are on another."`
	Force bool     `help:"Accept that apps are denied which share an app id with one that is."`
}

func (c *appListAssignCmd) Run(ctx context.Context, a *app) error {
	lists, err := a.appLists(ctx)
	if err != nil {
		return err
	}
	answer, err := lists.AssignAppList(ctx, &phonehostv1.AssignAppListRequest{AppList: c.Name, PhoneIds: c.IDs, Move: c.Move, Force: c.Force})
	if err != nil {
		return about(c.Name, err)
	}
	if err := a.print(answer, func(io.Writer) error { return nil }); err != nil {
		return err
	}
	if !a.json() {
		a.remarks(answer.GetRemarks())
	}
	return a.phoneResults(answer.GetResults(), "on the app list "+c.Name)
}

type appListUnassignCmd struct {
	IDs []string `arg:"" name:"id" help:"The phones, up to 100."`
}

func (c *appListUnassignCmd) Run(ctx context.Context, a *app) error {
	lists, err := a.appLists(ctx)
	if err != nil {
		return err
	}
	answer, err := lists.UnassignAppList(ctx, &phonehostv1.UnassignAppListRequest{PhoneIds: c.IDs})
	if err != nil {
		return aboutAll(c.IDs, err)
	}
	if err := a.print(answer, func(io.Writer) error { return nil }); err != nil {
		return err
	}
	return a.phoneResults(answer.GetResults(), "on no app list")
}

type appListCheckCmd struct {
	ID      string `arg:"" help:"The phone."`
	Package string `arg:"" help:"The package, whether the phone has it or not."`
}

// Help is the detailed help.
func (c *appListCheckCmd) Help() string {
	return "It exits 1 if any of installation, launch and network is denied."
}

func (c *appListCheckCmd) Run(ctx context.Context, a *app) error {
	lists, err := a.appLists(ctx)
	if err != nil {
		return err
	}
	answer, err := lists.CheckApp(ctx, &phonehostv1.CheckAppRequest{PhoneId: c.ID, Package: c.Package})
	if err != nil {
		return about(c.ID, err)
	}
	if err := a.print(answer, func(w io.Writer) error { return render.AppCheck(w, c.Package, answer) }); err != nil {
		return err
	}
	if answer.GetInstall().GetDenied() || answer.GetLaunch().GetDenied() || answer.GetNetwork().GetDenied() {
		return exitError{code: exitFailed}
	}
	return nil
}
