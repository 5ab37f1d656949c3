package cli

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/phonehost/phonehost/agent/cli/render"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type appCmd struct {
	Install   appInstallCmd   `cmd:"" help:"Install an app in phones, or update it."`
	Uninstall appUninstallCmd `cmd:"" help:"Remove an app and its data from phones."`
	Ls        appLsCmd        `cmd:"" help:"List the apps of a phone."`
	Start     appStartCmd     `cmd:"" help:"Start an app in phones."`
	Stop      appStopCmd      `cmd:"" help:"End all processes of an app in phones."`
}

type appInstallCmd struct {
	File      string   `arg:"" help:"The APK, or the base of several."`
	IDs       []string `arg:"" name:"id" help:"The phones, up to 100."`
	Split     []string `sep:"none" placeholder:"FILE" help:"A split APK that goes with the base; may be repeated."`
	Downgrade bool     `help:"Also put an older version in place of a newer one."`
	Grant     bool     `help:"Grant all permissions that the app asks for when it runs."`
	TestOnly  bool     `help:"Take APKs that are for tests only."`
	waiting
}

func (c *appInstallCmd) Run(ctx context.Context, a *app) error {
	start := &phonehostv1.InstallAppStart{
		PhoneIds: c.IDs, RequestId: c.RequestID, AllowDowngrade: c.Downgrade, GrantPermissions: c.Grant, AllowTestOnly: c.TestOnly,
	}
	var total uint64
	var files []io.Reader
	for _, name := range append([]string{c.File}, c.Split...) {
		f, described, err := describeAPK(name)
		if err != nil {
			return err
		}
		defer f.Close()
		start.Apks = append(start.Apks, described)
		files = append(files, f)
		total += described.GetSizeBytes()
	}
	apps, err := a.apps(ctx)
	if err != nil {
		return err
	}
	calling, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := apps.InstallApp(calling)
	if err != nil {
		return err
	}
	bar := newTransfer(a.stderr, c.File)
	defer bar.abandon()
	if err := sendAPKs(stream, start, io.MultiReader(files...), total, bar); err != nil {
		return err
	}
	answer, err := stream.CloseAndRecv()
	if err != nil {
		return aboutAll(c.IDs, err)
	}
	bar.done()
	a.sayf("%s", render.App(answer.GetApp()))
	return a.finish(ctx, answer.GetOperation(), c.waiting)
}

// describeAPK opens a file and reads it once for its digest; it is rewound afterwards.
func describeAPK(name string) (*os.File, *phonehostv1.ApkFile, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, err
	}
	hash := sha256.New()
	size, err := io.Copy(hash, f)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("read %s: %w", name, err), f.Close())
	}
	return f, &phonehostv1.ApkFile{SizeBytes: uint64(size), Sha256: hash.Sum(nil)}, nil
}

// sendAPKs sends an installation. When the agent refuses it midway, nil is returned and why comes out of CloseAndRecv.
func sendAPKs(stream phonehostv1.AppService_InstallAppClient, start *phonehostv1.InstallAppStart, r io.Reader, total uint64, bar *transfer) error {
	request := &phonehostv1.InstallAppRequest{Message: &phonehostv1.InstallAppRequest_Start{Start: start}}
	buf := make([]byte, chunkBytes)
	for sent := uint64(0); stream.Send(request) == nil; {
		n, err := r.Read(buf)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the APK: %w", err)
		}
		request = &phonehostv1.InstallAppRequest{Message: &phonehostv1.InstallAppRequest_Chunk{Chunk: buf[:n]}}
		sent += uint64(n)
		bar.at("sending", sent, total)
	}
	return nil
}

// onApp are the arguments of commands on an app that is there.
type onApp struct {
	Package string   `arg:"" help:"The app's package, such as com.example.app."`
	IDs     []string `arg:"" name:"id" help:"The phones, up to 100."`
	waiting
}

// follow follows the operation that a command has made.
func (c *onApp) follow(ctx context.Context, a *app, op *phonehostv1.Operation, err error) error {
	if err != nil {
		return aboutAll(c.IDs, err)
	}
	return a.finish(ctx, op, c.waiting)
}

type appUninstallCmd struct {
	onApp
	KeepData bool `help:"Leave the app's data for a later installation."`
}

func (c *appUninstallCmd) Run(ctx context.Context, a *app) error {
	apps, err := a.apps(ctx)
	if err != nil {
		return err
	}
	answer, err := apps.UninstallApp(ctx, &phonehostv1.UninstallAppRequest{PhoneIds: c.IDs, RequestId: c.RequestID, Package: c.Package, KeepData: c.KeepData})
	return c.follow(ctx, a, answer.GetOperation(), err)
}

type appStartCmd struct{ onApp }

func (c *appStartCmd) Run(ctx context.Context, a *app) error {
	apps, err := a.apps(ctx)
	if err != nil {
		return err
	}
	answer, err := apps.StartApp(ctx, &phonehostv1.StartAppRequest{PhoneIds: c.IDs, RequestId: c.RequestID, Package: c.Package})
	return c.follow(ctx, a, answer.GetOperation(), err)
}

type appStopCmd struct{ onApp }

func (c *appStopCmd) Run(ctx context.Context, a *app) error {
	apps, err := a.apps(ctx)
	if err != nil {
		return err
	}
	answer, err := apps.StopApp(ctx, &phonehostv1.StopAppRequest{PhoneIds: c.IDs, RequestId: c.RequestID, Package: c.Package})
	return c.follow(ctx, a, answer.GetOperation(), err)
}

type appLsCmd struct {
	ID     string `arg:"" help:"The phone."`
	System bool   `help:"Those that came with the image instead."`
	All    bool   `help:"Both."`
}

func (c *appLsCmd) Run(ctx context.Context, a *app) error {
	apps, err := a.apps(ctx)
	if err != nil {
		return err
	}
	scope := phonehostv1.AppScope_APP_SCOPE_THIRD_PARTY
	switch {
	case c.All:
		scope = phonehostv1.AppScope_APP_SCOPE_ALL
	case c.System:
		scope = phonehostv1.AppScope_APP_SCOPE_SYSTEM
	}
	answer, err := apps.ListApps(ctx, &phonehostv1.ListAppsRequest{PhoneId: c.ID, Scope: scope})
	if err != nil {
		return about(c.ID, err)
	}
	return a.print(answer, func(w io.Writer) error {
		if len(answer.GetApps()) == 0 {
			a.sayf("no apps yet: `phonectl app install FILE %s`", c.ID)
			return nil
		}
		return render.Apps(w, answer.GetApps())
	})
}
