package action

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"

	"github.com/dockbell/dockbell/trigger"
)

// identity is who a command runs as. The zero value is who dockbell runs as.
type identity struct {
	credential *syscall.Credential
	name, home string // of a user that this machine knows
}

// identify finds the user and the group that a command runs as, each a name or
// a number, and sees whether dockbell may do that. A user brings the groups
// that they are in and no others. What is wrong here may be right on another
// machine, as where a configuration is only checked: it is worth another try.
func identify(name, group string) (as identity, err error) {
	if name == "" && group == "" {
		return as, nil
	}
	away := func(field, format string, args ...any) error {
		return trigger.Field(field, "%w", trigger.Retry(fmt.Errorf(format, args...)))
	}
	cred := &syscall.Credential{Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())}
	field := "group"
	if name != "" {
		field = "user"
		u, err := findUser(name)
		switch {
		case err == nil:
			as.name, as.home = u.Username, u.HomeDir
			if err := join(cred, u); err != nil {
				return as, away("user", "the groups of %s: %w", name, err)
			}
		case !isNumber(name):
			return as, away("user", "cannot be found on this machine: %w", err)
		case group == "":
			return as, away("user", "this machine has no user %s, so group must say which group that is in", name)
		default:
			cred.Uid = number(name)
		}
	}
	if group != "" {
		g, err := findGroup(group)
		switch {
		case err == nil:
			cred.Gid = number(g.Gid)
		case !isNumber(group):
			return as, away("group", "cannot be found on this machine: %w", err)
		default:
			cred.Gid = number(group)
		}
	}
	if cred.Uid == uint32(os.Geteuid()) && cred.Gid == uint32(os.Getegid()) {
		return as, nil // nothing to change, which anybody may
	}
	if !maySwitch() {
		return as, away(field, "dockbell runs as user %d, who may not run programs as somebody else: start it as root, or with the capabilities SETUID, SETGID and KILL, or leave this out", os.Geteuid())
	}
	as.credential = cred
	return as, nil
}

// join makes a credential that of a user.
func join(cred *syscall.Credential, u *user.User) error {
	ids, err := u.GroupIds()
	if err != nil {
		return err
	}
	cred.Uid, cred.Gid = number(u.Uid), number(u.Gid)
	for _, id := range ids {
		cred.Groups = append(cred.Groups, number(id))
	}
	return nil
}

func findUser(s string) (*user.User, error) {
	if isNumber(s) {
		return user.LookupId(s)
	}
	return user.Lookup(s)
}

func findGroup(s string) (*user.Group, error) {
	if isNumber(s) {
		return user.LookupGroupId(s)
	}
	return user.LookupGroup(s)
}

// The ids of users and groups are numbers of 32 bits, all ones standing for
// none.
func isNumber(s string) bool {
	n, err := strconv.ParseUint(s, 10, 32)
	return err == nil && uint32(n) != ^uint32(0)
}

func number(s string) uint32 {
	n, _ := strconv.ParseUint(s, 10, 32) // isNumber has seen it, or the machine gave it
	return uint32(n)
}
