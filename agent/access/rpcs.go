package access

// required is the least role for every RPC of the agent, by full method name. An RPC that is not here is refused for every
// identity: a new RPC works only after somebody has decided who may call it.
var required = map[string]Role{
	"/phonehost.v1.HostService/GetHost":   RoleViewer,
	"/phonehost.v1.HostService/RunDoctor": RoleOperator,

	"/phonehost.v1.PhoneService/GetPhone":   RoleViewer,
	"/phonehost.v1.PhoneService/ListPhones": RoleViewer,
	"/phonehost.v1.PhoneService/Watch":      RoleViewer,
	"/phonehost.v1.PhoneService/GetSpec":    RoleViewer,
	"/phonehost.v1.PhoneService/PowerOn":    RoleOperator,
	"/phonehost.v1.PhoneService/PowerOff":   RoleOperator,
	"/phonehost.v1.PhoneService/Restart":    RoleOperator,
	"/phonehost.v1.PhoneService/Reset":      RoleOperator,

	"/phonehost.v1.PhoneService/BatchGetStatus": RoleViewer,
	// What a phone may use, for how long, and whether at all is its owner's decision.
	"/phonehost.v1.PhoneService/Freeze":   RoleAdmin,
	"/phonehost.v1.PhoneService/Unfreeze": RoleAdmin,
	"/phonehost.v1.PhoneService/Update":   RoleAdmin,
	// What a guest prints may be its user's business.
	"/phonehost.v1.PhoneService/Logs":        RoleOperator,
	"/phonehost.v1.PhoneService/CreatePhone": RoleAdmin,
	"/phonehost.v1.PhoneService/Delete":      RoleAdmin,
	// Exec is root inside the guest.
	"/phonehost.v1.PhoneService/Exec": RoleAdmin,

	// Commands are root inside the guest, and so are whoever writes and reads its files.
	"/phonehost.v1.CommandService/RunCommand":   RoleAdmin,
	"/phonehost.v1.CommandService/StartCommand": RoleAdmin,
	"/phonehost.v1.FileService/PushFile":        RoleAdmin,
	"/phonehost.v1.FileService/PullFile":        RoleAdmin,

	// Archives hold all that a user has, and an import replaces it.
	"/phonehost.v1.DataService/ListData":   RoleViewer,
	"/phonehost.v1.DataService/TrimData":   RoleOperator,
	"/phonehost.v1.DataService/ExportData": RoleAdmin,
	"/phonehost.v1.DataService/ImportData": RoleAdmin,

	"/phonehost.v1.AppService/ListApps":     RoleViewer,
	"/phonehost.v1.AppService/InstallApp":   RoleOperator,
	"/phonehost.v1.AppService/UninstallApp": RoleOperator,
	"/phonehost.v1.AppService/StartApp":     RoleOperator,
	"/phonehost.v1.AppService/StopApp":      RoleOperator,

	// Whom a phone speaks with is its user's business. What is dropped is in the journal, which viewers read.
	"/phonehost.v1.NetworkPolicyService/GetPolicy":       RoleViewer,
	"/phonehost.v1.NetworkPolicyService/ListPolicies":    RoleViewer,
	"/phonehost.v1.NetworkPolicyService/GetPhoneNetwork": RoleViewer,
	"/phonehost.v1.NetworkPolicyService/ListForwards":    RoleViewer,
	"/phonehost.v1.NetworkPolicyService/WatchDenials":    RoleViewer,
	"/phonehost.v1.NetworkPolicyService/ListFlows":       RoleOperator,
	"/phonehost.v1.NetworkPolicyService/WatchFlows":      RoleOperator,
	"/phonehost.v1.NetworkPolicyService/TestConnection":  RoleOperator,
	"/phonehost.v1.NetworkPolicyService/AssignPolicy":    RoleOperator,
	"/phonehost.v1.NetworkPolicyService/CutNetwork":      RoleOperator,
	"/phonehost.v1.NetworkPolicyService/RestoreNetwork":  RoleOperator,
	"/phonehost.v1.NetworkPolicyService/SetLimits":       RoleOperator,
	// What a policy lets through, and a forward past every policy, holds for more than one phone's user.
	"/phonehost.v1.NetworkPolicyService/PutPolicy":     RoleAdmin,
	"/phonehost.v1.NetworkPolicyService/DeletePolicy":  RoleAdmin,
	"/phonehost.v1.NetworkPolicyService/AddForward":    RoleAdmin,
	"/phonehost.v1.NetworkPolicyService/RemoveForward": RoleAdmin,

	// Who runs the host decides which apps its phones may have; what a list says is no secret.
	"/phonehost.v1.AppListService/GetAppList":      RoleViewer,
	"/phonehost.v1.AppListService/ListAppLists":    RoleViewer,
	"/phonehost.v1.AppListService/CheckApp":        RoleViewer,
	"/phonehost.v1.AppListService/WatchAppDenials": RoleViewer,
	"/phonehost.v1.AppListService/PutAppList":      RoleOperator,
	"/phonehost.v1.AppListService/ChangeAppList":   RoleOperator,
	"/phonehost.v1.AppListService/DeleteAppLists":  RoleOperator,
	"/phonehost.v1.AppListService/AssignAppList":   RoleOperator,
	"/phonehost.v1.AppListService/UnassignAppList": RoleOperator,

	"/phonehost.v1.StreamService/Attach":     RoleOperator,
	"/phonehost.v1.StreamService/Input":      RoleOperator,
	"/phonehost.v1.StreamService/Screenshot": RoleOperator,

	"/phonehost.v1.OperationService/GetOperation":   RoleViewer,
	"/phonehost.v1.OperationService/ListOperations": RoleViewer,
	"/phonehost.v1.OperationService/Watch":          RoleViewer,

	"/phonehost.v1.EventService/Watch": RoleViewer,

	"/phonehost.v1.ImageService/ListImages":     RoleViewer,
	"/phonehost.v1.ImageService/PullImage":      RoleAdmin,
	"/phonehost.v1.ImageService/ImportImage":    RoleAdmin,
	"/phonehost.v1.ImageService/ImportWaydroid": RoleAdmin,
	"/phonehost.v1.ImageService/RemoveImage":    RoleAdmin,

	"/grpc.health.v1.Health/Check": RoleViewer,
	"/grpc.health.v1.Health/List":  RoleViewer,
	"/grpc.health.v1.Health/Watch": RoleViewer,

	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      RoleViewer,
	"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": RoleViewer,
}

// Required returns the least role that may call an RPC, by its full method name such as "/phonehost.v1.HostService/GetHost".
// It is false for an RPC that the table does not know, which nobody may call.
func Required(method string) (Role, bool) {
	role, ok := required[method]
	return role, ok
}
