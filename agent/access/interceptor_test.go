package access_test

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/phonehost/phonehost/agent/access"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newServer registers everything that an agent serves. The services answer UNIMPLEMENTED: a call that reaches one was let in.
func newServer(c access.Config) *grpc.Server {
	srv := grpc.NewServer(access.Interceptors(c)...)
	phonehostv1.RegisterHostServiceServer(srv, phonehostv1.UnimplementedHostServiceServer{})
	phonehostv1.RegisterPhoneServiceServer(srv, phonehostv1.UnimplementedPhoneServiceServer{})
	phonehostv1.RegisterStreamServiceServer(srv, phonehostv1.UnimplementedStreamServiceServer{})
	phonehostv1.RegisterOperationServiceServer(srv, phonehostv1.UnimplementedOperationServiceServer{})
	phonehostv1.RegisterImageServiceServer(srv, phonehostv1.UnimplementedImageServiceServer{})
	phonehostv1.RegisterCommandServiceServer(srv, phonehostv1.UnimplementedCommandServiceServer{})
	phonehostv1.RegisterAppServiceServer(srv, phonehostv1.UnimplementedAppServiceServer{})
	phonehostv1.RegisterDataServiceServer(srv, phonehostv1.UnimplementedDataServiceServer{})
	phonehostv1.RegisterNetworkPolicyServiceServer(srv, phonehostv1.UnimplementedNetworkPolicyServiceServer{})
	phonehostv1.RegisterAppListServiceServer(srv, phonehostv1.UnimplementedAppListServiceServer{})
	phonehostv1.RegisterFileServiceServer(srv, phonehostv1.UnimplementedFileServiceServer{})
	phonehostv1.RegisterEventServiceServer(srv, phonehostv1.UnimplementedEventServiceServer{})
	healthpb.RegisterHealthServer(srv, health.NewServer())
	reflection.Register(srv)
	return srv
}

// door is a listener whose connections come from the given peer.
type door struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newDoor() *door { return &door{conns: make(chan net.Conn), done: make(chan struct{})} }

func (d *door) Accept() (net.Conn, error) {
	select {
	case c := <-d.conns:
		return c, nil
	case <-d.done:
		return nil, net.ErrClosed
	}
}
func (d *door) Close() error   { d.once.Do(func() { close(d.done) }); return nil }
func (d *door) Addr() net.Addr { return &net.UnixAddr{Name: "door"} }

type peerConn struct {
	net.Conn
	id access.Identity
}

func (c peerConn) Identity() access.Identity { return c.id }
func (c peerConn) Door() string              { return "unix" }
func (c peerConn) SessionKind() string       { return "control" }

// serve runs a server and returns how to connect to it as somebody, or as nobody with a nil identity.
func serve(t *testing.T, srv *grpc.Server) func(id *access.Identity) *grpc.ClientConn {
	t.Helper()
	d := newDoor()
	var served sync.WaitGroup
	served.Go(func() { _ = srv.Serve(d) })
	t.Cleanup(func() { srv.Stop(); served.Wait() })
	return func(id *access.Identity) *grpc.ClientConn {
		conn, err := grpc.NewClient("passthrough:///door", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
				here, there := net.Pipe()
				if id != nil {
					there = peerConn{there, *id}
				}
				select {
				case d.conns <- there:
					return here, nil
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
}

// call makes one call of an RPC with an empty message, whatever its form, and returns its status.
func call(t *testing.T, conn *grpc.ClientConn, method string) *status.Status {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err != nil {
		return status.Convert(err)
	}
	if err := stream.SendMsg(&emptypb.Empty{}); err != nil && !errors.Is(err, io.EOF) {
		return status.Convert(err)
	}
	if err := stream.CloseSend(); err != nil {
		return status.Convert(err)
	}
	err = stream.RecvMsg(&emptypb.Empty{})
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return status.Convert(err)
}

// methods lists every RPC that a server has.
func methods(srv *grpc.Server) []string {
	var all []string
	for service, info := range srv.GetServiceInfo() {
		for _, m := range info.Methods {
			all = append(all, "/"+service+"/"+m.Name)
		}
	}
	return all
}

func TestEveryRPCHasARole(t *testing.T) {
	t.Parallel()
	served := map[string]bool{}
	srv := newServer(access.Config{})
	defer srv.Stop()
	for _, m := range methods(srv) {
		served[m] = true
		if _, ok := access.Required(m); !ok {
			t.Errorf("%s has no entry in the role table", m)
		}
	}
	// What the API's definitions hold is served: a service that newServer forgets would not be tested.
	protoregistry.GlobalFiles.RangeFilesByPackage("phonehost.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			service := f.Services().Get(i)
			for j := range service.Methods().Len() {
				name := "/" + string(service.FullName()) + "/" + string(service.Methods().Get(j).Name())
				if !served[name] {
					t.Errorf("%s is defined and not served by this test", name)
				}
			}
		}
		return true
	})
	for _, m := range access.Methods() {
		if !served[m] {
			t.Errorf("the role table names %s, which does not exist", m)
		}
	}
}

// TestEveryRPCAndRole calls every RPC as every role: let in where the table says so, refused with the whole story elsewhere.
func TestEveryRPCAndRole(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	denied := map[string]access.Denial{}
	roles := access.Roles{Clients: map[string]access.Role{
		"endpoint": access.RoleEndpoint, "viewer": access.RoleViewer, "operator": access.RoleOperator, "admin": access.RoleAdmin,
	}}
	srv := newServer(access.Config{Roles: roles, Denied: func(_ context.Context, d access.Denial) {
		mu.Lock()
		defer mu.Unlock()
		denied[d.Caller.Identity.Name+d.Method] = d
	}})
	connect := serve(t, srv)
	for _, name := range []string{"stranger", "endpoint", "viewer", "operator", "admin"} {
		id := access.Identity{Kind: access.KindClient, Name: name}
		conn := connect(&id)
		for _, method := range methods(srv) {
			needs, _ := access.Required(method)
			has := roles.Of(id)
			st := call(t, conn, method)
			mu.Lock()
			denial, told := denied[name+method]
			mu.Unlock()
			if has >= needs {
				if st.Code() == codes.PermissionDenied || st.Code() == codes.Unauthenticated || told {
					t.Errorf("%s with role %s: %s = %v, want to be let in", id, has, method, st)
				}
				continue
			}
			if st.Code() != codes.PermissionDenied {
				t.Errorf("%s with role %s: %s = %v, want PERMISSION_DENIED", id, has, method, st)
				continue
			}
			text := id.String() + " has role " + has.String() + "; " + method + " needs role " + needs.String()
			if st.Message() != text {
				t.Errorf("message = %q, want %q", st.Message(), text)
			}
			if !told || denial.Has != has || denial.Needs != needs || denial.Caller.Door != "unix" {
				t.Errorf("Denied was told %+v (%v) about %s by %s", denial, told, method, id)
			}
		}
	}
}

// TestSensitiveRPCs pins the roles of what can hurt most, so that a slip in the table is noticed.
func TestSensitiveRPCs(t *testing.T) {
	t.Parallel()
	want := map[string]access.Role{
		"/phonehost.v1.PhoneService/Exec":           access.RoleAdmin,
		"/phonehost.v1.CommandService/RunCommand":   access.RoleAdmin,
		"/phonehost.v1.CommandService/StartCommand": access.RoleAdmin,
		"/phonehost.v1.FileService/PushFile":        access.RoleAdmin,
		"/phonehost.v1.DataService/ListData":        access.RoleViewer,
		"/phonehost.v1.DataService/TrimData":        access.RoleOperator,
		"/phonehost.v1.DataService/ExportData":      access.RoleAdmin,
		"/phonehost.v1.DataService/ImportData":      access.RoleAdmin,
		"/phonehost.v1.AppService/InstallApp":       access.RoleOperator,

		"/phonehost.v1.NetworkPolicyService/PutPolicy":     access.RoleAdmin,
		"/phonehost.v1.NetworkPolicyService/DeletePolicy":  access.RoleAdmin,
		"/phonehost.v1.NetworkPolicyService/AddForward":    access.RoleAdmin,
		"/phonehost.v1.NetworkPolicyService/RemoveForward": access.RoleAdmin,
		"/phonehost.v1.NetworkPolicyService/AssignPolicy":  access.RoleOperator,
		"/phonehost.v1.NetworkPolicyService/ListFlows":     access.RoleOperator,
		"/phonehost.v1.NetworkPolicyService/WatchFlows":    access.RoleOperator,
		"/phonehost.v1.NetworkPolicyService/WatchDenials":  access.RoleViewer,

		"/phonehost.v1.AppListService/PutAppList":      access.RoleOperator,
		"/phonehost.v1.AppListService/ChangeAppList":   access.RoleOperator,
		"/phonehost.v1.AppListService/DeleteAppLists":  access.RoleOperator,
		"/phonehost.v1.AppListService/AssignAppList":   access.RoleOperator,
		"/phonehost.v1.AppListService/UnassignAppList": access.RoleOperator,
		"/phonehost.v1.AppListService/CheckApp":        access.RoleViewer,
		"/phonehost.v1.AppListService/WatchAppDenials": access.RoleViewer,

		"/phonehost.v1.AppService/UninstallApp":       access.RoleOperator,
		"/phonehost.v1.AppService/ListApps":           access.RoleViewer,
		"/phonehost.v1.FileService/PullFile":          access.RoleAdmin,
		"/phonehost.v1.PhoneService/CreatePhone":      access.RoleAdmin,
		"/phonehost.v1.PhoneService/Delete":           access.RoleAdmin,
		"/phonehost.v1.ImageService/ImportImage":      access.RoleAdmin,
		"/phonehost.v1.ImageService/PullImage":        access.RoleAdmin,
		"/phonehost.v1.ImageService/RemoveImage":      access.RoleAdmin,
		"/phonehost.v1.PhoneService/Freeze":           access.RoleAdmin,
		"/phonehost.v1.PhoneService/Unfreeze":         access.RoleAdmin,
		"/phonehost.v1.PhoneService/Update":           access.RoleAdmin,
		"/phonehost.v1.PhoneService/PowerOff":         access.RoleOperator,
		"/phonehost.v1.PhoneService/Reset":            access.RoleOperator,
		"/phonehost.v1.PhoneService/Logs":             access.RoleOperator,
		"/phonehost.v1.StreamService/Attach":          access.RoleOperator,
		"/phonehost.v1.StreamService/Input":           access.RoleOperator,
		"/phonehost.v1.StreamService/Screenshot":      access.RoleOperator,
		"/phonehost.v1.PhoneService/ListPhones":       access.RoleViewer,
		"/grpc.health.v1.Health/Check":                access.RoleViewer,
		"/phonehost.v1.OperationService/GetOperation": access.RoleViewer,
	}
	for method, role := range want {
		if got, ok := access.Required(method); !ok || got != role {
			t.Errorf("Required(%s) = %v, %v; want %v", method, got, ok, role)
		}
	}
}

func TestRefusalCarriesErrorInfo(t *testing.T) {
	t.Parallel()
	srv := newServer(access.Config{Roles: access.Roles{Users: map[uint32]access.Role{7: access.RoleViewer}}})
	conn := serve(t, srv)(&access.Identity{Kind: access.KindUID, UID: 7})
	st := call(t, conn, "/phonehost.v1.PhoneService/Exec")
	var info *errdetails.ErrorInfo
	for _, d := range st.Details() {
		info, _ = d.(*errdetails.ErrorInfo)
	}
	if info == nil {
		t.Fatalf("%v carries no ErrorInfo", st)
	}
	want := map[string]string{"identity": "uid/7", "role": "viewer", "needs": "admin", "method": "/phonehost.v1.PhoneService/Exec"}
	if diff := cmp.Diff(want, info.Metadata); diff != "" || info.Reason != "ROLE_TOO_LOW" || info.Domain != "phonehost.dev" {
		t.Errorf("ErrorInfo %s %s (-want +got):\n%s", info.Domain, info.Reason, diff)
	}
}

// TestRPCWithoutEntry calls an RPC that is served and that the table does not know.
func TestRPCWithoutEntry(t *testing.T) {
	t.Parallel()
	srv := grpc.NewServer(access.Interceptors(access.Config{})...)
	srv.RegisterService(&grpc.ServiceDesc{
		ServiceName: "phonehost.v1.NewService",
		HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{StreamName: "Do", ServerStreams: true, Handler: func(any, grpc.ServerStream) error {
			t.Error("the handler was reached")
			return nil
		}}},
	}, nil)
	st := call(t, serve(t, srv)(&access.Identity{Kind: access.KindUID}), "/phonehost.v1.NewService/Do")
	if st.Code() != codes.PermissionDenied {
		t.Errorf("root's call of an RPC without an entry = %v, want PERMISSION_DENIED", st)
	}
}

func TestConnectionThroughNoDoor(t *testing.T) {
	t.Parallel()
	connect := serve(t, newServer(access.Config{}))
	if st := call(t, connect(nil), "/grpc.health.v1.Health/Check"); st.Code() != codes.Unavailable {
		t.Errorf("a call on a connection without a peer = %v, want UNAVAILABLE: the handshake fails", st)
	}
	err := access.Config{}.Authorize(t.Context(), "/grpc.health.v1.Health/Check")
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("Authorize without a caller = %v, want UNAUTHENTICATED", err)
	}
}

func TestFromContext(t *testing.T) {
	t.Parallel()
	if id, ok := access.FromContext(t.Context()); ok {
		t.Errorf("FromContext of an empty context = %v", id)
	}
	want := access.AuthInfo{Identity: access.Identity{Kind: access.KindClient, Name: "fleet"}, Door: "listen", SessionKind: "media"}
	got, ok := access.InfoFromContext(access.NewContext(t.Context(), want))
	if diff := cmp.Diff(want, got); !ok || diff != "" {
		t.Errorf("InfoFromContext (-want +got):\n%s", diff)
	}
}
