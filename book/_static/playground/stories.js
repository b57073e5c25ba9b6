// Six short stories of three clicks. A step is a state, as a link, and what to see there. In braces stand what the
// network answers, {answer} with {share} or {exact}, and the same of the second one: {otherAnswer}, {otherShare}, ….
var playground = globalThis.playground ?? {};

(() => {
  const MIXED = "order=POnl_uNMj1xr-37XHs4cWRGaQvJwVepb9YAFdtiIUZCgkq65BTDzKL2E0yfo8hSm";

  playground.stories = {
    "play-sequence": {
      title: "An image is a sequence",
      steps: [
        ["#v=1&scene=18", "The network cuts this picture into 64 squares and reads them as a list, row by row. It says {answer}, {share}."],
        ["#v=1&scene=18&cover=00001f0000070000", "Eight squares are grey now. They stay in the list, but hold nothing any more. The network says {answer}, {share}."],
        [`#v=1&scene=18&${MIXED}`, "The same 64 squares, dealt out anew. You have lost the house. The network says {answer}, {share}: most of what it uses is inside the squares."],
      ],
    },
    "play-order": {
      title: "Without positions, order is nothing",
      steps: [
        ["#v=1&scene=4&beside=bias_unplaced", "The ViT knows where each square lies. It says {answer}, {exact}. Beside it answers a ViT that was trained without positions: {otherAnswer}, {otherExact}."],
        [`#v=1&scene=4&${MIXED}&beside=bias_unplaced`, "All squares are shuffled. The ViT’s number moves: {answer}, {exact}. Without positions every digit stays: {otherAnswer}, {otherExact}. Attention alone sees a bag of squares: it knows what is in them, not where they lay. Here that is enough."],
        [`#v=1&scene=4&positions=off&${MIXED}&beside=bias_unplaced`, "Now the ViT loses its positions too: {answer}, {exact}. Shuffle again, as often as you like: no digit will move."],
      ],
    },
    "play-look": {
      title: "Where it looks",
      steps: [
        ["#v=1&scene=25&layer=1&token=29&light=mean", "A square of the mushroom’s cap looks around. It takes in what the lit squares hold: this is attention in layer 1, the mean of four heads."],
        ["#v=1&scene=25&layer=6&token=29&light=mean", "Five layers on, the same square looks again. See the four heads below: do they agree?"],
        ["#v=1&scene=25&layer=6&light=rollout", "The class token collects the answer. Rollout follows its attention back through all six layers to the squares. The network says {answer}, {share}."],
      ],
    },
    "play-decides": {
      title: "One patch decides",
      steps: [
        ["#v=1&scene=25&light=mean", "Lit is where the class token looks in the last layer. The network says {answer}, {share}."],
        ["#v=1&scene=25&cover=497061fdf6ee7efa", "The 40 squares it looked at least are covered. It hardly minds: {answer}, {share}."],
        ["#v=1&scene=25&cover=0000000008000000", "Only one square is covered, the one it looked at most. Now it says {answer}, {share}."],
      ],
    },
    "play-shift": {
      title: "The convolution does not mind a small step",
      steps: [
        ["#v=1&scene=33&beside=bias_resnet", "Two networks of equal size see one picture: the ViT, and a ResNet, which is built from convolutions, small filters that slide over the pixels. The ViT says {answer}, {share}; the ResNet says {otherAnswer}, {otherShare}."],
        ["#v=1&scene=33&shift=1,0&beside=bias_resnet", "The picture moves right by one pixel. The ViT says {answer}, {share}: every square has new content. The ResNet slides along: {otherAnswer}, {otherShare}."],
        [`#v=1&scene=31&${MIXED}&beside=bias_resnet`, "Shuffled squares turn the tables. This was a fish. The ViT says {answer}, {share}. The ResNet is built on pixels that lie side by side: {otherAnswer}, {otherShare}."],
      ],
    },
    "play-fooled": {
      title: "When it is fooled",
      steps: [
        ["#v=1&scene=32&beside=bias_resnet", "A duck in the green of a fir. The ViT says {answer}, {share}. The ResNet says {otherAnswer}, {otherShare}."],
        ["#v=1&scene=32&shift=0,-1&beside=bias_resnet", "One pixel up, and the ViT says {answer}, {share}. An answer that hangs on one pixel is a guess."],
        ["#v=1&scene=40&beside=bias_resnet", "A star in the same green. The ViT says {answer}, {share}. The lens below shows layer by layer how it makes up its mind."],
      ],
    },
  };
})();
