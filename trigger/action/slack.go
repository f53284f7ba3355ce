package action

import (
	"strings"

	"github.com/dockbell/dockbell/trigger"
)

// Slack builds actions that write to a channel of Slack by an incoming webhook,
// or of what understands the same: Mattermost, Rocket.Chat.
func Slack(client *Client) trigger.Builder {
	return chat{name: "Slack", body: slackBody, advice: map[int]string{
		400: "Slack does not understand the message, or the address is not that of an incoming webhook",
		403: "the webhook was switched off, or the workspace does not let it write: make a new one",
		404: "there is no such webhook or channel any more: make a new one",
		410: "the channel was archived: make a webhook for another one",
	}}.builder(client)
}

// slackMarks are what Slack takes for links and mentions ("Formatting text for
// app surfaces": escaping).
var slackMarks = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

var slackColors = map[mood]string{good: "good", warning: "warning", bad: "danger"}

// slackBody is a message as an attachment, which alone has a colour. Nothing in
// it is taken for formatting.
func slackBody(m note) any {
	return map[string]any{"attachments": []any{map[string]any{
		"fallback":   slackMarks.Replace(m.plain()),
		"color":      slackColors[moods[m.State]],
		"title":      slackMarks.Replace(m.Title),
		"title_link": m.Link,
		"text":       slackMarks.Replace(m.Text),
		"mrkdwn_in":  []string{},
	}}}
}
