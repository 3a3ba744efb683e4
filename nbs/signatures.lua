-- nbdev 2.4 links the names in a signature's comments as if they stood in prose; in a code block they are names again.
function CodeBlock(block)
  block.text = block.text:gsub('%[(`[^`]+`)%]%(https://[^)]+%.html#[^)]+%)', '%1')
  return block
end
