package action

import (
	"net/url"
	"regexp"

	"github.com/dockbell/dockbell/trigger"
)

// Discord builds actions that write to a channel of Discord by its webhook.
func Discord(client *Client) trigger.Builder {
	return chat{name: "Discord", body: discordBody, adjust: discordWait, advice: map[int]string{
		400: "Discord does not understand the message",
		401: "the address is not that of a webhook",
		404: "the webhook was deleted: make a new one in the settings of the channel",
	}}.builder(client)
}

// discordMarks are the characters that Discord may take for formatting.
var discordMarks = regexp.MustCompile("[\\\\*_~`|>#\\[\\]-]")

var discordColors = map[mood]int{good: 0x2eb67d, warning: 0xecb22e, bad: 0xe01e5a}

// discordBody is a message as an embed. It mentions nobody, whatever is in it.
func discordBody(m note) any {
	escape := func(s string) string { return discordMarks.ReplaceAllString(s, `\$0`) }
	embed := map[string]any{"title": escape(m.Title), "description": escape(m.Text), "color": discordColors[moods[m.State]]}
	if m.Link != "" {
		embed["url"] = m.Link
	}
	return map[string]any{"embeds": []any{embed}, "allowed_mentions": map[string]any{"parse": []string{}}}
}

// discordWait asks for an answer that says whether the message was kept: without
// it Discord says yes to everything ("Execute Webhook": wait).
func discordWait(c *call) {
	u, err := url.Parse(c.url)
	if err != nil {
		return // it was checked
	}
	query := u.Query()
	query.Set("wait", "true")
	u.RawQuery = query.Encode()
	c.url = u.String()
}
