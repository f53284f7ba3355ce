package parts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
)

// Helm runs helm and gives what it printed. It keeps nothing outside of home,
// and knows of no cluster but one that an argument names.
func (b Bin) Helm(ctx context.Context, home string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, b.path("helm"), args...)
	cmd.Env = []string{"HOME=" + home, "TMPDIR=" + os.TempDir()}
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("helm %s: %w\n%s%s", args[0], err, out, exit.Stderr)
	}
	return string(out), err
}
