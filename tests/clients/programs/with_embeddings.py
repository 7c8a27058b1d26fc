"""LangChain's and LlamaIndex's embeddings, litellm's embeddings and rerank, Cohere's rerank."""

import json
import sys

import cohere
import litellm
from langchain_openai import OpenAIEmbeddings
from llama_index.embeddings.openai_like import OpenAILikeEmbedding

_, URL, MODEL = sys.argv
TEXTS = ["The cat sleeps.", "A cat is asleep.", "Shares fell on Monday."]
SOUGHT = "a sleeping animal"

langchain = OpenAIEmbeddings(
    base_url=URL, api_key="none", model=MODEL, check_embedding_ctx_length=False, max_retries=0
)
llama_index = OpenAILikeEmbedding(model_name=MODEL, api_base=URL, api_key="none", max_retries=0)
lite = litellm.embedding(model=f"openai/{MODEL}", input=TEXTS, api_base=URL, api_key="none")
root = URL.removesuffix("/v1")
ranked = litellm.rerank(
    model=f"cohere/{MODEL}", query=SOUGHT, documents=TEXTS, top_n=2, api_base=root, api_key="none"
)
of_v1 = cohere.Client(base_url=root, api_key="none").rerank(model=MODEL, query=SOUGHT, documents=TEXTS)
of_v2 = cohere.ClientV2(base_url=root, api_key="none").rerank(
    model=MODEL, query=SOUGHT, documents=TEXTS, top_n=2
)
print(
    json.dumps(
        {
            "vectors": {
                "LangChain": langchain.embed_documents(TEXTS),
                "LlamaIndex": llama_index.get_text_embedding_batch(TEXTS),
                "litellm": [item["embedding"] for item in lite.data],
            },
            "query": {
                "LangChain": langchain.embed_query(TEXTS[0]),
                "LlamaIndex": llama_index.get_query_embedding(TEXTS[0]),
            },
            "tokens": lite.usage.total_tokens,
            "ranked": {
                "litellm": [item["index"] for item in ranked.results],
                "Cohere 1": [item.index for item in of_v1.results],
                "Cohere 2": [item.index for item in of_v2.results],
            },
        }
    )
)
